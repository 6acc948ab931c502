// usage: java Client.java URL PHOTO: print the top class, and the number of bytes of the heatmap

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;
import java.util.regex.Pattern;

public class Client {
    private static final Pattern LABEL = Pattern.compile("\"predictions\":\\[\\{\"label\":\"([^\"]*)\"");

    public static void main(String[] arguments) throws Exception {
        // The default client offers HTTP/2 with the header "Upgrade: h2c" in each request.
        HttpClient client = HttpClient.newHttpClient();
        String prediction = new String(post(client, arguments[0] + "/predict", arguments[1]));
        var label = LABEL.matcher(prediction);
        if (!label.find()) throw new IOException(prediction);
        System.out.println(label.group(1));
        System.out.println(post(client, arguments[0] + "/cam", arguments[1]).length);
    }

    private static byte[] post(HttpClient client, String url, String photo) throws Exception {
        HttpRequest request = HttpRequest.newBuilder(URI.create(url))
            .header("Content-Type", "image/jpeg")
            .POST(BodyPublishers.ofFile(Path.of(photo)))
            .build();
        HttpResponse<byte[]> response = client.send(request, BodyHandlers.ofByteArray());
        if (response.statusCode() != 200) throw new IOException(new String(response.body()));
        return response.body();
    }
}
